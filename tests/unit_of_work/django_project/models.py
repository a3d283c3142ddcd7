"""Two tables; Django checks the foreign key between them at COMMIT."""

from django.db import models


class Customer(models.Model):  # type: ignore[misc]
    """Somebody who orders."""

    name = models.TextField()


class Order(models.Model):  # type: ignore[misc]
    """What was ordered; by a customer that does not exist, COMMIT fails."""

    customer = models.ForeignKey(Customer, models.DO_NOTHING, null=True)

    class Meta:
        db_table = "orders"
