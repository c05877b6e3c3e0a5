export default { render({ el }) {
    const keep = event => {
        const output = el.closest(".jp-OutputArea-output");
        if (output && output.contains(event.target))  // Control+S and the like stay with JupyterLab
            event.target.toggleAttribute("data-lm-suppress-shortcuts", !(event.ctrlKey || event.metaKey));
    };
    window.addEventListener("keydown", keep, true);
    return () => window.removeEventListener("keydown", keep, true);
} };
