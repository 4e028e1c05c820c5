// Equations first, while every slide is laid out: what is hidden has no size to go by.
window.MathJax = {
    tex: {
        inlineMath: [['$', '$'], ['\\(', '\\)']],
        displayMath: [['$$', '$$'], ['\\[', '\\]']],
        processEscapes: true,
    },
    svg: {fontCache: 'none'},
    options: {enableMenu: false},
    startup: {
        ready() {
            MathJax.startup.defaultReady();
            MathJax.startup.promise.then(() => {
                document.body.classList.remove('typesetting');
                // The speaker's window has not the style that hides what screen readers read.
                document.querySelectorAll('.notes mjx-assistive-mml').forEach(e => e.remove());
                Reveal.initialize({
                    width: 960, height: 700, margin: 0.02, center: false, hash: true,
                    slideNumber: 'c/t', transition: 'none', plugins: [RevealNotes],
                });
            });
        },
    },
};
