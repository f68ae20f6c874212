"""Training as a library: recipe, model, crops, the run with its checkpoints, and its report.

`examples/train.py` puts it together:

```python
>>> recipe = parse_recipe(["examples/recipes/cpu_smoke.yaml"])  # doctest: +SKIP
>>> data = load_training_data(recipe)  # doctest: +SKIP
>>> model = build_model(recipe, list(data.type_names.values()))  # doctest: +SKIP
```
"""

from .architectures import tiny_config
from .ema import ExponentialMovingAverage
from .launching import TrainingInterrupted, TrainingStopped, crops_per_step, make_accelerator
from .models import build_model, build_processor, retype
from .optimization import cosine_with_warmup, make_optimizer, parameter_groups
from .recipe import OptimizationOptions, Recipe
from .recipe_reading import make_recipe, parse_recipe
from .run import TrainingRun
from .training_data import TrainingData, build_crops, load_training_data

__all__ = [
    "ExponentialMovingAverage",
    "OptimizationOptions",
    "Recipe",
    "TrainingData",
    "TrainingInterrupted",
    "TrainingRun",
    "TrainingStopped",
    "build_crops",
    "build_model",
    "build_processor",
    "cosine_with_warmup",
    "crops_per_step",
    "load_training_data",
    "make_accelerator",
    "make_optimizer",
    "make_recipe",
    "parameter_groups",
    "parse_recipe",
    "retype",
    "tiny_config",
]
