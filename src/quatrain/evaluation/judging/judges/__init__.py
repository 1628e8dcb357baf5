"""Who judges: a model behind a chat endpoint, or one that is loaded here."""

from quatrain.evaluation.judging.judges.chat_endpoint import ChatEndpoint, EndpointConfig
from quatrain.evaluation.judging.judges.judge import Judge, Reply, Tell
from quatrain.evaluation.judging.judges.local import LikelihoodJudge, LocalConfig, WritingJudge, local_judge

__all__ = [
    "ChatEndpoint",
    "EndpointConfig",
    "Judge",
    "LikelihoodJudge",
    "LocalConfig",
    "Reply",
    "Tell",
    "WritingJudge",
    "local_judge",
]
