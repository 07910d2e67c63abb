"""The networks: architectures and initialisations as data, the trainable chain, its step table and its file."""

from stability.networks.architecture import ARCHITECTURES, Architecture
from stability.networks.chain import Chain
from stability.networks.chain_step import Step
from stability.networks.initialisation import INITS, Distribution, Init
from stability.networks.many_points import evaluate

__all__ = ["ARCHITECTURES", "INITS", "Architecture", "Chain", "Distribution", "Init", "Step", "evaluate"]
