"""One page about one network: what is wrong with it, where, how badly, and what helps."""

from stability.report.examine import examine
from stability.report.finding import CODES, SEVERITIES, Finding, Look, Trial
from stability.report.report import Profile, Report

__all__ = ["CODES", "SEVERITIES", "Finding", "Look", "Profile", "Report", "Trial", "examine"]
