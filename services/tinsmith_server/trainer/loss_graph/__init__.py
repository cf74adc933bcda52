"""Losses as graphs of allow-listed operations."""

from tinsmith_server.trainer.loss_graph.custom_loss import CustomLoss, check_metrics
from tinsmith_server.trainer.loss_graph.graph import Graph, Node, bad_node
from tinsmith_server.trainer.loss_graph.operations import OPERATIONS, SOURCES

__all__ = ["OPERATIONS", "SOURCES", "CustomLoss", "Graph", "Node", "bad_node", "check_metrics"]
