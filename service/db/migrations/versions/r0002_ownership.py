"""Which state folder a database belongs to, who made a prediction, how long a lease is, and room for long names."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the table ``installation`` and three columns; widen two."""
    op.create_table(
        "installation",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("created", sa.Float(53), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_installation"),
    )
    op.add_column("jobs", sa.Column("lease_seconds", sa.Float(53)))
    with op.batch_alter_table("predictions") as predictions:
        predictions.add_column(sa.Column("key", sa.String(64)))
        predictions.alter_column("label", existing_type=sa.String(300), type_=sa.Text(), existing_nullable=True)
    with op.batch_alter_table("uploads") as uploads:
        uploads.alter_column("name", existing_type=sa.String(128), type_=sa.String(300), existing_nullable=False)
    # A prediction made by a job belongs to the job's key; the owners of others were not recorded.
    op.execute("UPDATE predictions SET key = (SELECT jobs.key FROM jobs WHERE jobs.id = predictions.id)")


def downgrade() -> None:
    """Remove them; fails on PostgreSQL if names are too long for the old columns."""
    with op.batch_alter_table("uploads") as uploads:
        uploads.alter_column("name", existing_type=sa.String(300), type_=sa.String(128), existing_nullable=False)
    with op.batch_alter_table("predictions") as predictions:
        predictions.alter_column("label", existing_type=sa.Text(), type_=sa.String(300), existing_nullable=True)
        predictions.drop_column("key")
    op.drop_column("jobs", "lease_seconds")
    op.drop_table("installation")
