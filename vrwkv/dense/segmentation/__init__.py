"""Training and testing mmsegmentation's segmentors with mmengine's Runner; needs the extra `seg`."""
