/** People of a cluster at the coordinator's port: known by a Kubernetes token for UMS, and allowed what they may do with Migrations. */
import type { FastifyInstance } from "fastify";
import { UmsError } from "../../errors.ts";
import type { Cluster } from "../../platforms/kubernetes/client.ts";
import type { People } from "../../server/peer-server.ts";

/** Of a token that is good here. The API server takes none of those: whoever comes by one can do no more than this port allows. */
const audience = "ums";

/** Reading is `list migrations`; whatever else there is, pairing too, is `create migrations`. */
export function createPeople(cluster: Cluster, api: FastifyInstance): People {
  return {
    async admit(request) {
      const token = /^Bearer (\S+)$/i.exec(request.headers.authorization ?? "")?.[1];
      const user = token === undefined ? undefined : await cluster.reviewToken(token, { audiences: [audience] });
      if (!user) throw new UmsError("NOT_AUTHORISED", `The caller shows no token of this cluster for the audience ${audience}.`);
      const verb = request.method === "GET" ? "list" : "create";
      if (!(await cluster.isAllowed(user, { verb, group: "ums.dev", resource: "migrations" })))
        throw new UmsError("NOT_ALLOWED", `${user.username} may not ${verb} migrations in this cluster.`);
    },
    answer: (request, reply) => api.routing(request.raw, reply.raw),
  };
}
