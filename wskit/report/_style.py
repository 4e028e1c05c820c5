"""The look of a report's page: light and dark, on paper, on a phone."""

STYLE = """
:root {
  color-scheme: light dark;
  --text: #1d2430; --soft: #56606f; --line: #d9dee6; --page: #ffffff; --card: #f5f7fa;
  --link: #0b5cad; --trained: #0173b2; --random: #56606f; --collapsed: #b34700; --unclear: #56606f;
  --picture: none;
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e4e7ec; --soft: #a6afbd; --line: #363c46; --page: #141414; --card: #1f2226;
    --link: #7db8f0; --trained: #6cb6ea; --random: #a6afbd; --collapsed: #f0a26a;
    --unclear: #a6afbd; --picture: invert(0.922) hue-rotate(180deg);
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 68rem; background: var(--page);
  color: var(--text); font: 1rem/1.6 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  overflow-wrap: anywhere;
}
header { border-bottom: 1px solid var(--line); margin-bottom: 1.5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.35rem; line-height: 1.3; margin: 2.75rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0; font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
p, ul { max-width: 46rem; }
a { color: var(--link); }
.soft, figcaption, caption { color: var(--soft); }
.lead { font-size: 1.1rem; }
.cards {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem;
  margin: 1.5rem 0;
}
.cards div { background: var(--card); border-radius: .6rem; padding: .8rem 1rem; }
.cards dt { color: var(--soft); font-size: .85rem; line-height: 1.3; }
.cards dd { margin: 0; font-size: 1.5rem; font-weight: 650; line-height: 1.3; }
.pictures {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr));
  gap: 1.75rem;
}
figure { margin: 0; break-inside: avoid; }
figcaption { font-size: .92rem; margin: .4rem 0 0; }
h3 + img { margin-top: .5rem; }
img { display: block; width: auto; max-width: 100%; height: auto; filter: var(--picture); }
details { border-top: 1px solid var(--line); }
details:last-of-type { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; padding: .7rem 0; font-weight: 600; }
summary:focus-visible, a:focus-visible, .wide:focus-visible {
  outline: 2px solid var(--link); outline-offset: 2px;
}
.wide { overflow-x: auto; margin-bottom: .75rem; }
table { border-collapse: collapse; font-size: .87rem; line-height: 1.4; overflow-wrap: normal; }
caption { text-align: left; padding-bottom: .5rem; }
th, td {
  padding: .32rem .9rem .32rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); font-weight: 400;
}
thead th { font-weight: 600; vertical-align: bottom; }
tbody th { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .82rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.text { min-width: 20rem; }
.name { min-width: 13rem; max-width: 22rem; overflow-wrap: anywhere; }
.verdict { font-weight: 600; white-space: nowrap; }
.trained { color: var(--trained); } .random { color: var(--random); }
.collapsed { color: var(--collapsed); } .unclear { color: var(--unclear); }
.facts dt { font-weight: 600; }
.facts dd { margin: 0 0 .6rem; }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .9em; }
@media print {
  :root {
    color-scheme: light; --text: #000; --soft: #444; --line: #bbb; --page: #fff; --card: #f3f3f3;
    --link: #000; --trained: #0173b2; --random: #444; --collapsed: #b34700; --picture: none;
  }
  body { padding: 0; font-size: .85rem; max-width: none; }
  details::details-content { content-visibility: visible; block-size: auto; }
  .wide { overflow: visible; } table { font-size: .7rem; } thead { display: table-header-group; }
  tr { break-inside: avoid; } .save { display: none; }
}
"""
