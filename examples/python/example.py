"""Saves to the sample tables of `forebay serve --dev`: `python3 example.py [HOST:PORT]`."""

import sys
from datetime import datetime, timezone
from decimal import Decimal

import forebay


def main(target: str) -> None:
    with forebay.Client(target) as client:
        client.save("guilds", 2, {"name": "The Second"})
        now = datetime.now(timezone.utc)
        saved = client.save("players", 42, {"name": "Ann", "guild_id": 2, "gold": Decimal("7.50"), "seen": now, "extra": {"pets": 2}})
        print("accepted:", saved.ticket)

        # One sync for all of them, and one transaction.
        kinds = ["sword", "shield", "lamp"]
        client.save_batch([forebay.Save("items", [42, slot], {"kind": kind}) for slot, kind in enumerate(kinds)], atomic=True)
        client.delete("items", [42, 2])

        try:
            client.save("players", 43, {"nam": "Bob"})
        except forebay.Refused as error:
            print("refused:", error)

        client.flush(timeout=60)
        status = client.status()
        for lane in status.lanes:
            print(f"lane {lane.name}: {lane.rows_written} rows written, {lane.backlog_objects} objects waiting")
        print("failed saves:", status.failed_saves)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:7420")
