"""Training: a recipe says what, a pipeline does it, a run folder keeps it.

A task turns a batch into losses; the loop runs any task and does not depend on detection. The same calls with the same
run folder resume after a stop.

Examples:
    >>> from cora.data.read import read_dataset
    >>> from cora.training.pipeline import Hooks, TrainingPipeline
    >>> from cora.training.recipe import PromptStage, TrainRecipe
    >>> pipeline = TrainingPipeline(
    ...     recipe=TrainRecipe(prompts=PromptStage(epochs=1, batch=2), relabel=None, localizer=None),
    ...     detector=cora.load("nano").detector,
    ...     dataset=read_dataset(images=Path("images"), annotations=Path("boxes.json")),
    ...     run=Path("run"),
    ...     hooks=Hooks(progress=False),
    ... )
    >>> pipeline.all().name  # a file for `cora.load`
    'prompts.safetensors'
"""
