"""Training: a recipe holds the settings, a pipeline runs the stages, a run folder keeps checkpoints and results.

A task is a module that maps a batch to a dictionary of losses. The loop trains any task and knows nothing of detection.
To resume a stopped run, make the same calls with the same run folder.

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
