"""The service's errors; the root and the device errors are in ``livephase_devices.errors``.

::

    LivephaseError
    ├── ConfigurationError   a file or argument of the user is wrong      422
    ├── ModelError           a model file cannot be used                  422
    │   ├── ModelRangeError      values outside the model's valid range   422
    │   └── ModelNotFoundError   no model of that name                    404
    ├── InferenceError       the worker could not compute a phase         503
    │   └── WorkerDiedError      the worker process ended under the frame 503
    ├── FocusError           the focus could not be measured              422
    ├── StorageError         a run could not be written or read           507
    ├── PlanError            a plan cannot be run                         422
    ├── RunNotFoundError     no run of that id                            404
    ├── CalibrationNotFoundError  no calibration of that name             404
    └── ConflictError        the request does not fit the present state   409
"""

from __future__ import annotations

from livephase_devices.errors import LivephaseError


class ConfigurationError(LivephaseError):
    """A file or an argument of the user is wrong."""

    status = 422
    slug = "configuration"
    title = "Configuration is wrong"


class ModelError(LivephaseError):
    """A model file cannot be used."""

    status = 422
    slug = "model"
    title = "Model cannot be used"


class ModelRangeError(ModelError):
    """Values lie outside the valid range that the model states."""

    slug = "model-range"
    title = "Outside the model's valid range"


class ModelNotFoundError(ModelError):
    """No model has that name."""

    status = 404
    slug = "model-not-found"
    title = "No such model"


class InferenceError(LivephaseError):
    """The inference worker could not compute a phase."""

    status = 503
    slug = "inference"
    title = "Inference failed"


class WorkerDiedError(InferenceError):
    """The worker process ended while it held the frame."""

    slug = "worker-died"
    title = "Inference worker ended"


class FocusError(LivephaseError):
    """The focus could not be measured in these frames."""

    status = 422
    slug = "focus"
    title = "Focus not found"


class StorageError(LivephaseError):
    """A run could not be written or read."""

    status = 507
    slug = "storage"
    title = "Storage failed"


class PlanError(LivephaseError):
    """A plan cannot be run."""

    status = 422
    slug = "plan"
    title = "Plan cannot be run"


class RunNotFoundError(LivephaseError):
    """No run has that id."""

    status = 404
    slug = "run-not-found"
    title = "No such run"


class CalibrationNotFoundError(LivephaseError):
    """No calibration has that name."""

    status = 404
    slug = "calibration-not-found"
    title = "No such calibration"


class ConflictError(LivephaseError):
    """The request does not fit the present state."""

    status = 409
    slug = "conflict"
    title = "Not possible in this state"
