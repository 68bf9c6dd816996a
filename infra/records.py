"""The base of what a run writes down or answers: results, manifests, records of files."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Plain values of a result or manifest, frozen; reading one with an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
