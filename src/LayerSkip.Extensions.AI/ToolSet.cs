using System.Text.Json;
using System.Text.Json.Nodes;
using LayerSkip.CSharp;
using Microsoft.Extensions.AI;

namespace LayerSkip.Extensions.AI;

/// <summary>The tools of a request.</summary>
internal sealed class ToolSet
{
    private ToolSet(IReadOnlyList<AIFunctionDeclaration> tools, bool allowsMany) => (Tools, AllowsMany) = (tools, allowsMany);

    public IReadOnlyList<AIFunctionDeclaration> Tools { get; }

    private bool AllowsMany { get; }

    /// <exception cref="NotSupportedException">A tool is no function.</exception>
    public static ToolSet Of(ChatOptions? options)
    {
        List<AIFunctionDeclaration> tools = [];
        foreach (var tool in options?.ToolMode is NoneChatToolMode ? [] : options?.Tools ?? [])
        {
            tools.Add(tool as AIFunctionDeclaration ?? throw new NotSupportedException(
                $"the tool {tool.Name} ({tool.GetType().Name}) is run by a service; a model in this process calls functions (AIFunctionDeclaration) alone"));
        }

        return new(tools, options?.AllowMultipleToolCalls is not false);
    }

    /// <summary>The schema of a call of one of the tools, or of the one that is named.</summary>
    /// <exception cref="ArgumentException">There is no tool, or none of that name.</exception>
    public JsonObject CallSchema(string? name)
    {
        var callable = Tools.Where(tool => name is null || tool.Name == name).ToArray();
        return callable is []
            ? throw new ArgumentException(
                name is null ? "ToolMode requires a call, and there are no Tools" : $"ToolMode requires {name}, which is none of the Tools")
            : new() { ["anyOf"] = new JsonArray([.. callable.Select(Call)]) };

        static JsonNode Call(AIFunctionDeclaration tool, int index) => new JsonObject
        {
            ["type"] = "object",
            ["properties"] = new JsonObject
            {
                ["name"] = new JsonObject { ["const"] = tool.Name },
                ["arguments"] = Schemas.Inside($"/anyOf/{index}/properties/arguments", tool.JsonSchema),
            },
            ["required"] = new JsonArray("name", "arguments"),
            ["additionalProperties"] = false,
        };
    }

    /// <summary>Calls as contents; of several the first alone where more are not allowed.</summary>
    public IReadOnlyList<AIContent> Contents(IReadOnlyList<ToolCall> calls) =>
        [.. calls.Take(AllowsMany ? int.MaxValue : 1).Select(Content)];

    /// <summary>The call that a JSON text is, where it is one of these tools'.</summary>
    public FunctionCallContent? TryReadCall(string text)
    {
        try
        {
            using var document = JsonDocument.Parse(text);
            var call = document.RootElement;
            return call.ValueKind == JsonValueKind.Object
                && call.TryGetProperty("name", out var name) && name.ValueKind == JsonValueKind.String
                && call.TryGetProperty("arguments", out var arguments)
                && Tools.Any(tool => tool.Name == name.GetString())
                ? Content(new() { Name = name.GetString()!, Arguments = arguments.GetRawText() })
                : null;
        }
        catch (JsonException)
        {
            // A limit of tokens cut it.
            return null;
        }
    }

    private static FunctionCallContent Content(ToolCall call) =>
        FunctionCallContent.CreateFromParsedArguments(
            call.Arguments,
            call.Id ?? NewId(),
            call.Name,
            static json => JsonSerializer.Deserialize<Dictionary<string, object?>>(json, AIJsonUtilities.DefaultOptions));

    // Results name calls by it, also those of families that give them none. Mistral's templates want nine letters and digits.
    private static string NewId() => Random.Shared.GetString("abcdefghijklmnopqrstuvwxyz0123456789", 9);
}
