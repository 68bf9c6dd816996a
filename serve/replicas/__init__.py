"""The deployments that compute: stream replicas and the text encoder."""
