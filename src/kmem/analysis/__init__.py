"""kmem.analysis"""
