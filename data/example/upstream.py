"""An upstream Dagster asset as the source of a training dataset, connected in the asset graph.

`shop_events` writes a file per day. Declare the folder as the source of a training dataset:

    training_datasets:
      - name: Shop events
        source: /data/shop_events  # the value of SHOP_EVENTS
        columns: {user: USER_ID, item: ITEM_ID, ts: TIMESTAMP}

Then start Dagster with this file instead of `cleanroom dev`:

    SHOP_EVENTS=/data/shop_events dagster dev -f upstream.py

The graph shows `shop_events` upstream of `training_dataset`. A refresh of the dataset's model (`refresh:` in the
declaration) reads all days that exist at that time; the counts of earlier days come from the day cache.
"""

import os
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from cleanroom_pipelines.definitions import defs as clean_room

DAYS = dg.DailyPartitionsDefinition(start_date="2026-01-01")


@dg.asset(partitions_def=DAYS, group_name="shop", kinds={"parquet"})
def shop_events(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """What visitors of the shop viewed on a day; replace the body with your own query."""
    start = int(datetime.fromisoformat(context.partition_key).replace(tzinfo=UTC).timestamp())
    table = pa.table({"user": ["u1", "u2"], "item": ["i1", "i1"], "ts": [start, start + 60]})
    folder = Path(os.environ["SHOP_EVENTS"])
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{context.partition_key}"  # hidden files are not read
    pq.write_table(table, draft)
    draft.rename(folder / f"{context.partition_key}.parquet")
    return dg.MaterializeResult(metadata={"dagster/row_count": table.num_rows})


def draw_lineage(spec: dg.AssetSpec) -> dg.AssetSpec:
    """Show `shop_events` upstream of `training_dataset`."""
    if spec.key != dg.AssetKey("training_dataset"):
        return spec
    every_day = dg.AssetDep("shop_events", partition_mapping=dg.AllPartitionMapping())
    return spec.merge_attributes(deps=[every_day])


@dg.definitions
def defs() -> dg.Definitions:
    """The clean room's definitions with the upstream asset."""
    room = clean_room()
    assets = dict.fromkeys(asset for asset in room.assets or () if isinstance(asset, dg.AssetsDefinition))
    return dg.Definitions(
        assets=[shop_events, *dg.map_asset_specs(draw_lineage, assets)],
        asset_checks=room.asset_checks,
        jobs=room.jobs,
        schedules=room.schedules,
        sensors=room.sensors,
        resources=room.resources,
    )
