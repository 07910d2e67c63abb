"""One page about one network: what is wrong with it, where, how badly, and what helps."""

from stability.report.examination import Profile, Report
from stability.report.examine import examine
from stability.report.finding import CODES, SEVERITIES, Finding, Look, Trial

__all__ = ["CODES", "SEVERITIES", "Finding", "Look", "Profile", "Report", "Trial", "examine"]
