"""kmem.cli"""
