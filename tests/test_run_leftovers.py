from geocbm.run import Run, leftovers

LEFT = (
    "stage2_both.safetensors",
    "stage2_both.json",
    "stage2_both_neighbours.safetensors",
    "history_stage2_both.parquet",
    "stage2_recipe_seed.safetensors",
    "stage2_recipe_seed_decoding.json",
    "stage2_hybrid.resume.safetensors",
)
KEPT = (
    "stage2.safetensors",
    "stage2.json",
    "stage2_neighbours.safetensors",
    "stage2_decoding.json",
    "history_stage2.parquet",
    "stage2.resume.safetensors",
    "stage2_concept_scores.safetensors",
    "history_stage2_concept_scores.parquet",
    "stage2_recipe_refined.json",
    "stage1_recipe_seed.safetensors",
    "geocells.npz",
)


def test_only_the_heads_of_this_execution_stay(tmp_path):
    for name in (*LEFT, *KEPT):
        (tmp_path / name).touch()
    trained = ["hybrid_", "concept_scores", "recipe refined"]
    assert leftovers.remove_leftovers(Run(tmp_path), "stage2", trained) == sorted(LEFT)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(KEPT)
