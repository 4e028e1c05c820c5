"""What a panel needs to be used by ear and by keyboard, which ipywidgets cannot set itself."""

import anywidget
import traitlets

# Runs again whenever a view in the panel is made or changed, and changes only what is not so yet.
_ESM = r"""
const set = (part, name, value) => {
  if (part && part.getAttribute(name) !== value) part.setAttribute(name, value);
};
const numbers = /^(-?[\d.]+(?:e[-+]?\d+)?)\s*[-–]\s*(.+)$/i;

const name = (box) => {
  const label = box.querySelector('.widget-label');
  if (label?.title === 'null') label.title = '';  // what ipywidgets makes of no tooltip
  return label ? label.title || label.textContent.trim() : '';
};

function slider(box) {
  const handles = [...box.querySelectorAll('.noUi-handle')];
  const readout = box.querySelector('.widget-readout');
  const shown = readout && readout.style.display !== 'none' ? readout.textContent.trim() : '';
  const ends = handles.length > 1 ? [' from', ' to'] : [''];
  const texts = handles.length > 1 ? numbers.exec(shown)?.slice(1) : [shown];
  handles.forEach((handle, i) => {
    set(handle, 'aria-label', name(box) + ends[i]);
    if (texts?.[i]) set(handle, 'aria-valuetext', texts[i]);
    set(handle, 'data-lm-suppress-shortcuts', 'true');
  });
  // What is written into that of a slider over choices changes nothing.
  if (box.classList.contains('wskit-choices')) set(readout, 'contenteditable', 'false');
  else if (readout?.isContentEditable) {
    set(readout, 'role', 'textbox');
    set(readout, 'aria-label', name(box) + ', as a number');
  }
}

function progress(box) {
  const bar = box.querySelector('.progress');
  set(bar, 'role', 'progressbar');
  set(bar, 'aria-label', name(box) || 'Progress');
  set(bar, 'aria-valuemin', '0');
  set(bar, 'aria-valuemax', '100');
  const width = parseFloat(box.querySelector('.progress-bar').style.width) || 0;
  set(bar, 'aria-valuenow', String(Math.round(width)));
}

function choice(box) {
  set(box, 'role', 'group');
  set(box, 'aria-label', name(box));
  for (const button of box.querySelectorAll('button'))
    set(button, 'aria-pressed', String(button.classList.contains('mod-active')));
}

function mend(panel, title) {
  const each = (selector, action) => panel.querySelectorAll(selector).forEach(action);
  set(panel, 'role', 'group');
  set(panel, 'aria-label', title);
  each('.widget-slider', slider);
  each('.widget-hprogress', progress);
  each('.widget-toggle-buttons', choice);
  each('button i', (icon) => set(icon, 'aria-hidden', 'true'));
  // JupyterLab would take their arrow keys for its cells.
  each('select', (list) => set(list, 'data-lm-suppress-shortcuts', 'true'));
  // What is put into a region that is there already is read out; at once, where work failed.
  each('.wskit-message .widget-html-content', (place) => {
    set(place, 'role', 'status');
    set(place, 'aria-live', place.querySelector('[data-failed]') ? 'assertive' : 'polite');
  });
}

// The kernel may handle a click before the text that was typed before it: each part's messages go
// to a thread of their own choice. So a button's click takes along what was typed since the last.
function enterBeforeButtons(panel, model, signal) {
  const typed = new Set();
  panel.addEventListener('input', ({ target }) => {
    if (target.closest('.widget-text')) typed.add(target);
  }, { signal });
  panel.addEventListener('click', (event) => {
    const button = event.target.closest('.widget-button');
    if (!button || !typed.size) return;
    event.stopPropagation();
    const texts = [...typed]
      .filter((field) => field.isConnected)
      .map((field) => [name(field.closest('.widget-text')), field.value]);
    typed.clear();
    model.send({ texts, button: button.textContent.trim() });
  }, { signal, capture: true });
}

export default {
  render({ model, el }) {
    el.style.display = 'none';
    const ended = new AbortController();
    let observer, waiting;
    function begin() {
      const panel = el.closest('.wskit-panel');
      if (!panel) {  // this view is made before it is put into the page
        waiting = setTimeout(begin, 50);
        return;
      }
      const again = () => mend(panel, model.get('title'));
      observer = new MutationObserver(again);
      observer.observe(panel, {
        subtree: true, childList: true, characterData: true,
        attributeFilter: ['style', 'class', 'title', 'aria-valuetext', 'contenteditable'],
      });
      again();
      enterBeforeButtons(panel, model, ended.signal);
    }
    begin();
    return () => { clearTimeout(waiting); observer?.disconnect(); ended.abort(); };
  },
};
"""

# Over ipywidgets' own rule for fields of text, which has them lose it.
_CSS = """
.wskit-panel.wskit-panel.wskit-panel :focus-visible {
  outline: 3px solid var(--jp-brand-color1, #1976d2) !important;
  outline-offset: 1px;
}
"""


class Access(anywidget.AnyWidget):
    """Name the parts of the panel that it is in, for screen readers; it shows nothing itself.

    Handles of sliders are named by their labels, and say what is written beside them; progress
    bars and the choice among buttons have their roles; messages are read out; arrow keys move what
    has the focus; and the focus is seen. What was typed is entered before a button is pressed.

    Attributes
    ----------
    title : str
        Of the panel.
    """

    title = traitlets.Unicode().tag(sync=True)

    _esm = _ESM
    _css = _CSS
