"""What a task imports while it runs, and who submits it does not."""


class Odd(ValueError):
    pass
