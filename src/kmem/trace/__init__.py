"""kmem.trace"""
