"""Controls of IGB-RL that need a finished run of it: its weights without its agent."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agents.agent_file import AgentFileError, read_agent
from agents.balancers.base import register_balancer
from agents.balancers.decided import DecidedWeights
from agents.errors import ConfigurationError
