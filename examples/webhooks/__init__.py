"""
Receivers of webhooks, one small file for each way to serve.
"""
