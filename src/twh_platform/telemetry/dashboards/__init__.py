"""
Dashboards for Grafana, and rules for Prometheus, made from the table of names.
"""
