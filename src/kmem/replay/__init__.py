"""kmem.replay"""
