export default { render({ model, el }) {
    const make = (tag, more) => Object.assign(document.createElement(tag), more);
    const rows = model.get("names").map((name, column) => {
        const row = make("label", {title: name}), shown = make("output");
        const input = make("input", {type: "range", min: model.get("least"), max: 0, step: model.get("step")});
        row.append(make("span", {textContent: name}), input, shown);
        input.oninput = () => {
            model.set("values", model.get("values").with(column, 10 ** input.value));
            model.save_changes();
        };
        return {row, input, shown};
    });
    const show = () => model.get("values").forEach((value, column) => {
        const {input, shown} = rows[column];
        input.value = Math.log10(value);
        input.ariaValueText = shown.textContent = (100 * value).toFixed(2) + "%";
    });
    const arrange = () => el.replaceChildren(...model.get("order").map(column => rows[column].row));
    model.on("change:values", show);
    model.on("change:order", arrange);
    el.classList.add("geocbm-sliders");
    show();
    arrange();
} };
