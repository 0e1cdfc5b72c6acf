"""kmem.report"""
