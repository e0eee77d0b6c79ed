"""Layers: one file each, registered by the name that recipes and published weights use."""

from reeltag.registry import Registry

LAYERS: Registry[object] = Registry("layer", "reeltag.layers")
