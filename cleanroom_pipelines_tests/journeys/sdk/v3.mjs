// The journey through AWS SDK for JavaScript v3: node v3.mjs < world.json

import { readFileSync } from "node:fs";

import { live } from "./journey.mjs";
import { sdkOf } from "./lookalikes.mjs";

const world = JSON.parse(readFileSync(0, "utf8"));
const sdk = sdkOf(JSON.parse(readFileSync(world.model, "utf8")));
const clients = {};
for (const party of ["publisher", "advertiser"]) {
  const { key_id: accessKeyId, secret: secretAccessKey } = world[party];
  clients[party] = new sdk.CleanRoomsMLClient({
    endpoint: world.endpoint,
    region: world.region,
    credentials: { accessKeyId, secretAccessKey },
  });
}

const result = await live(
  {
    call: (party, operation, input) => clients[party].send(new sdk[`${operation}Command`](input)),
    pages: (party, operation, { maxResults, ...input }) =>
      sdk[`paginate${operation}`]({ client: clients[party], pageSize: maxResults }, input),
    isError: (error, name) => error instanceof sdk[name],
    readsMembersOfErrors: true,
  },
  world,
);
console.log(JSON.stringify(result));
