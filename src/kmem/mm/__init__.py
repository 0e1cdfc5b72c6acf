"""kmem.mm"""
