const PART = 4 * 1024 * 1024;
export default { render({ model, el }) {
    const add = (tag, more) => el.appendChild(Object.assign(document.createElement(tag), more));
    const button = add("button", {className: "jupyter-button", textContent: "Choose a photograph"});
    const words = add("span", {textContent: " or drop one here"});
    const input = add("input", {type: "file", accept: model.get("accept"), hidden: true});
    const send = async file => {
        for (let begin = 0; begin === 0 || begin < file.size; begin += PART) {
            const part = await file.slice(begin, begin + PART).arrayBuffer().catch(() => null);  // null: a folder
            if (!part) { words.textContent = ` ${file.name} cannot be read; drop a photograph here`; return; }
            const end = begin + part.byteLength;
            model.send({name: file.name, begin, whole: end >= file.size}, undefined, [part]);
        }
        words.textContent = " or drop another one here";
    };
    let last = Promise.resolve();
    const take = file => { if (file) last = last.then(() => send(file)); };  // one after the other
    button.onclick = () => input.click();
    input.onchange = () => { take(input.files[0]); input.value = ""; };
    el.classList.add("geocbm-drop");
    for (const kind of ["dragenter", "dragover", "dragleave", "drop"])
        el.addEventListener(kind, event => {
            event.preventDefault();
            event.stopPropagation();
            el.classList.toggle("geocbm-over", kind === "dragenter" || kind === "dragover");
            if (kind === "drop") take(event.dataTransfer.files[0]);
        });
} };
