// The lookalike API as a client of AWS SDK for JavaScript v3: what its code generator writes, made from the API's
// model when it is needed.
//
// Lives here: turning a service model into the SDK's schemas, commands, paginators and typed exceptions.
// Keep out: what is asked of the API (the journeys).
//
// The runtime is the SDK's own: CleanRoomsClient is the generated client of the sibling service, which has the same
// protocol, and its signing, serialisation, retries and errors are those of every v3 client.

import { CleanRoomsClient } from "@aws-sdk/client-cleanrooms";
import { createPaginator } from "@smithy/core";
import { Command, ServiceException } from "@smithy/core/client";
import { getEndpointPlugin } from "@smithy/core/endpoints";
import { TypeRegistry } from "@smithy/core/schema";

const NAMESPACE = "com.amazonaws.cleanroomsml";
const SIMPLE = { string: 0, integer: 1, long: 1, float: 1, double: 1, boolean: 2, timestamp: 5 };
const LABEL = 1;
const ENDPOINT_PARAMETERS = {
  Endpoint: { type: "builtInParams", name: "endpoint" },
  Region: { type: "builtInParams", name: "region" },
};

/** Client class, commands, paginators and exceptions of a service model as botocore ships it. */
export function sdkOf(model) {
  const schemas = new Map();

  function schemaOf(name) {
    if (!schemas.has(name)) schemas.set(name, written(name, model.shapes[name]));
    return schemas.get(name);
  }

  function written(name, shape) {
    switch (shape.type) {
      case "list":
        return [1, NAMESPACE, name, 0, () => schemaOf(shape.member.shape)];
      case "map":
        return [2, NAMESPACE, name, 0, () => schemaOf(shape.key.shape), () => schemaOf(shape.value.shape)];
      case "structure": {
        const names = Object.keys(shape.members ?? {});
        const members = names.map((each) => member(shape.members[each]));
        const kind = shape.exception ? -3 : shape.union ? 4 : 3;
        const traits = shape.exception ? { error: "client", httpError: shape.error.httpStatusCode } : 0;
        return [kind, NAMESPACE, name, traits, names, members];
      }
      default:
        return SIMPLE[shape.type];
    }
  }

  function member(reference) {
    const target = model.shapes[reference.shape];
    const schema = target.type in SIMPLE ? SIMPLE[target.type] : () => schemaOf(reference.shape);
    if (reference.location === "uri") return [schema, LABEL];
    if (reference.location === "querystring") return [schema, { httpQuery: reference.locationName }];
    return schema;
  }

  const registry = TypeRegistry.for(NAMESPACE);
  const exceptions = {};
  for (const [name, shape] of Object.entries(model.shapes)) {
    if (!shape.exception) continue;
    exceptions[name] = {
      [name]: class extends ServiceException {
        constructor(options) {
          super({ name, $fault: "client", ...options });
          Object.assign(this, options);
        }
      },
    }[name];
    registry.registerError(schemaOf(name), exceptions[name]);
  }

  const nothing = (name) => [3, NAMESPACE, name, 0, [], []];
  const commands = {};
  for (const [name, operation] of Object.entries(model.operations)) {
    const http = [operation.http.method, operation.http.requestUri, operation.http.responseCode];
    const input = operation.input ? () => schemaOf(operation.input.shape) : nothing(`${name}Request`);
    const output = operation.output ? () => schemaOf(operation.output.shape) : nothing(`${name}Response`);
    commands[`${name}Command`] = Command.classBuilder()
      .ep(ENDPOINT_PARAMETERS)
      .m((Each, _stack, config) => [getEndpointPlugin(config, Each.getEndpointParameterInstructions())])
      .s("AWSStarlingDoveService", name, {})
      .n("CleanRoomsMLClient", `${name}Command`)
      .sc([9, NAMESPACE, name, { http }, input, output])
      .build();
  }

  class CleanRoomsMLClient extends CleanRoomsClient {
    constructor(configuration) {
      super({
        ...configuration,
        serviceId: "CleanRoomsML",
        signingName: "cleanrooms-ml",
        protocolSettings: { defaultNamespace: NAMESPACE, errorTypeRegistries: [registry], version: "2023-09-06" },
        httpAuthSchemeProvider: ({ region }) => [
          {
            schemeId: "aws.auth#sigv4",
            signingProperties: { name: "cleanrooms-ml", region },
            propertiesExtractor: (config, context) => ({ signingProperties: { config, context } }),
          },
        ],
      });
    }
  }

  const paginators = {};
  for (const name of Object.keys(model.operations).filter((each) => each.startsWith("List"))) {
    const command = commands[`${name}Command`];
    paginators[`paginate${name}`] = createPaginator(
      CleanRoomsMLClient, command, "nextToken", "nextToken", "maxResults",
    );
  }
  return { CleanRoomsMLClient, ...commands, ...paginators, ...exceptions };
}
