using System.Text.Json;
using System.Text.Json.Nodes;

namespace LayerSkip.Extensions.AI;

/// <summary>JSON schemas inside others.</summary>
internal static class Schemas
{
    /// <summary>A schema as it must be to mean the same at another place of a whole: what it refers to in itself lies deeper then.</summary>
    /// <param name="place">A JSON pointer: "/anyOf/0".</param>
    /// <param name="schema">The schema; true and false are schemas too.</param>
    public static JsonNode Inside(string place, JsonElement schema)
    {
        var moved = JsonNode.Parse(schema.GetRawText())!;
        Move(place, moved);
        return moved;
    }

    private static void Move(string place, JsonNode? node)
    {
        if (node is JsonObject fields)
        {
            // Of the whole alone.
            fields.Remove("$schema");
            if (fields["$ref"] is JsonValue reference && reference.TryGetValue(out string? target) && target.StartsWith('#'))
            {
                fields["$ref"] = $"#{place}{target[1..]}";
            }
        }

        var inner = node switch
        {
            JsonObject own => own.Select(field => field.Value).ToArray(),
            JsonArray items => [.. items],
            _ => [],
        };
        foreach (var item in inner)
        {
            Move(place, item);
        }
    }
}
