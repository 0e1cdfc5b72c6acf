"""kmem.linux"""
