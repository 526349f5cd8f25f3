"""Train a teacher on labeled images."""

from segdistill.commands._context import Options
from segdistill.commands._derived_settings import with_derived_settings
from segdistill.commands._measured_settings import Trainings
from segdistill.commands._networks import (
    build_initialized,
    tell_of_initial_weights,
    with_initial_preprocessing,
    with_pretrained_preprocessing,
)
from segdistill.commands._open_context import open_context
from segdistill.commands._overlap import refuse_overlap
from segdistill.commands._results import Outcome
from segdistill.commands._resume import finished
from segdistill.commands._teacher import check_unmapped
from segdistill.commands._teacher_run import run_teacher_training, teacher_stem
from segdistill.config.schema import RunConfig
from segdistill.errors import UsageError
from segdistill.runtime.precision import exact_float32
from segdistill.runtime.reporter import Reporter


@exact_float32()
def train_teacher(config: RunConfig, options: Options, reporter: Reporter) -> Outcome:
    """Train the configuration's teacher network on its own.

    Raises:
        SegdistillError: whatever is wrong with settings, data or the run's folder, before anything is written.
    """
    check_unmapped(config)
    if config.data.images:
        raise UsageError(
            "data.images names images without labels, and a teacher is trained on labels.",
            "Give --data DATA --set data.images=[]",
        )
    config = with_initial_preprocessing(config, options.init_weights, "teacher")
    config = with_pretrained_preprocessing(config, options, trains_teacher=True)
    with open_context(config, options, reporter, stem=teacher_stem(config), unlabeled=False) as context:
        refuse_overlap(context, context.out, [])
        # weights that do not fit are refused before there is a folder
        build_initialized(context, config.teacher)
        tell_of_initial_weights(context, config.teacher)
        context = with_derived_settings(context.with_verified_data(), Trainings(student=False, teacher=None))
        return finished(context, "teacher") or run_teacher_training(context)
