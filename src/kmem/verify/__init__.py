"""kmem.verify"""
