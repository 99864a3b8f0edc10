"""The baselines by name; a new one is a class (`baselines.interface.Baseline`) and its name in `METHODS`."""

from baselines.control_codes import ControlCodes
from baselines.fudge import Fudge
from baselines.interface import Baseline
from baselines.language_model import Uncontrolled
from baselines.lora_per_aspect import LoraPerAspect
from baselines.persona_vectors import PersonaVectors
from baselines.prefix_tuning import PrefixTuning
from baselines.prompted import Prompted
from baselines.rerank import Rerank
from baselines.steering import Steering
from baselines.training import TrainingSetting  # noqa: F401  (its users take both from here)

METHODS: dict[str, type[Baseline]] = {
    method.name: method
    for method in (
        Uncontrolled,
        ControlCodes,
        PrefixTuning,
        Fudge,
        Rerank,
        Steering,
        Prompted,
        PersonaVectors,
        LoraPerAspect,
    )
}
