"""Settings of `make lab`: outputs of notebooks stay in JupyterLab and reach no file, so they never reach git."""

CONTRACT_TAG = "nbval-check-output"
"""Cells whose expected output is part of the notebook."""


def drop_outputs(model, **_others):
    """Take outputs and traces of an execution out of a notebook that is about to be saved."""
    if model["type"] != "notebook" or not model.get("content"):
        return
    for cell in model["content"]["cells"]:
        cell["metadata"].pop("lines_to_next_cell", None)  # jupytext's own notes, which jupytext.toml says anew
        if cell["cell_type"] != "code":
            continue
        cell["execution_count"] = None
        cell["metadata"].pop("execution", None)
        if CONTRACT_TAG not in cell["metadata"].get("tags", []):
            cell["outputs"] = []
        for output in cell["outputs"]:
            output.get("metadata", {}).clear()
    for name in ("widgets", "jupytext", "language_info"):
        model["content"]["metadata"].pop(name, None)


c = get_config()  # noqa: F821
c.ContentsManager.pre_save_hook = drop_outputs
c.ServerApp.ip = "127.0.0.1"
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
c.LabApp.default_url = "/lab/tree/notebooks"
