"""
A multi-tenant warehouse: the model of a service built on `twh_platform`.

Read it in this order: `app.py` puts it together, `models.py` and `schema.py`
are the database, `routes/` has the handlers, `web.py` is what they share.
"""
