"""One fact of a clip's survey, asked for by itself."""

from infra.media.survey import ClipSurvey


def packet_times(path, timeout_s=30.0):
    """What all packets of a clip say."""
    survey = ClipSurvey(path, timeout_s)
    survey.header()
    return survey.packets()


def displayed_aspect(path):
    """Width over height of the first picture as a viewer sees it."""
    survey = ClipSurvey(path)
    survey.header()
    survey.packets()
    return survey.aspect()
