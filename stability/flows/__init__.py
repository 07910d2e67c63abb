"""The limits of chains as the depth grows: differential equations whose Euler steps they are."""

from stability.flows.flow_result import Flow, Order
from stability.flows.measure_flow import flow

__all__ = ["Flow", "Order", "flow"]
