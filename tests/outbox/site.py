"""The app that worker processes load."""

from flask import Flask

from flask_delay import Delay

app = Flask("shop")
Delay(app)
