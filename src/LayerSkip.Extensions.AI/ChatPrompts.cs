using System.Text.Json;
using LayerSkip.CSharp;
using Microsoft.Extensions.AI;

namespace LayerSkip.Extensions.AI;

/// <summary>Messages and tools as a model's chat template takes them.</summary>
internal static class ChatPrompts
{
    // Messages bring these, and no model here reads them.
    private static readonly Type[] Silent = [typeof(UsageContent), typeof(TextReasoningContent)];

    // On one line: models were trained on calls as they write them.
    private static readonly JsonSerializerOptions Compact = new(AIJsonUtilities.DefaultOptions) { WriteIndented = false };

    /// <summary>The tokens of a request's messages.</summary>
    /// <exception cref="ArgumentException">There is no message.</exception>
    /// <exception cref="LayerSkipException">The model's chat template refuses the messages, or has no place for the tools.</exception>
    /// <exception cref="NotSupportedException">A message holds what is neither text nor a call nor its result.</exception>
    public static IReadOnlyList<int> Encode(
        ILayerSkipModel model, string? instructions, IEnumerable<ChatMessage> messages, ToolSet tools, ReasoningEffort? effort)
    {
        Dictionary<string, ToolCall> calls = [];
        IEnumerable<ChatTurn> before = string.IsNullOrEmpty(instructions) ? [] : [ChatTurn.System(instructions)];
        ChatTurn[] said = [.. messages.SelectMany(message => Turns(message, calls))];
        if (said is [])
        {
            throw new ArgumentException("there is no message to answer; give one or more", nameof(messages));
        }

        ChatTurn[] turns = [.. before, .. said];
        return model.EncodeChat(turns, new() { Tools = [.. tools.Tools.Select(Definition)], Variables = Variables(effort) });
    }

    private static ToolDefinition Definition(AIFunctionDeclaration tool) => new()
    {
        Name = tool.Name,
        Description = string.IsNullOrEmpty(tool.Description) ? null : tool.Description,
        Parameters = tool.JsonSchema.GetRawText(),
    };

    private static IReadOnlyDictionary<string, JsonElement> Variables(ReasoningEffort? effort) =>
        effort is { } asked
            ? new() { ["enable_thinking"] = JsonSerializer.SerializeToElement(asked != ReasoningEffort.None) }
            : new Dictionary<string, JsonElement>();

    /// <summary>A message as turns: results of calls are turns of their own. <paramref name="calls"/> are those of earlier messages, by id.</summary>
    private static IEnumerable<ChatTurn> Turns(ChatMessage message, Dictionary<string, ToolCall> calls)
    {
        var (text, asked, answered) = (new List<string>(), new List<ToolCall>(), new List<ChatTurn>());
        foreach (var content in message.Contents)
        {
            switch (content)
            {
                case TextContent said:
                    text.Add(said.Text);
                    break;
                case FunctionCallContent call:
                    ToolCall written = new()
                    {
                        Id = call.CallId,
                        Name = call.Name,
                        Arguments = JsonSerializer.Serialize(call.Arguments ?? new Dictionary<string, object?>(), Compact),
                    };
                    calls[call.CallId] = written;
                    asked.Add(written);
                    break;
                case FunctionResultContent result:
                    var of = calls.GetValueOrDefault(result.CallId) ?? new() { Id = result.CallId, Name = "" };
                    answered.Add(ChatTurn.Tool(of, ResultText(result)) with { Name = of.Name is "" ? null : of.Name });
                    break;
                case var other when Silent.Contains(other.GetType()):
                    break;
                default:
                    throw new NotSupportedException(
                        $"a message holds {content.GetType().Name}; this client takes texts, function calls and their results");
            }
        }

        // A message of results alone says nothing itself.
        return text.Count > 0 || asked.Count > 0 || answered.Count == 0
            ? [Said(message, string.Concat(text), asked), .. answered]
            : answered;
    }

    private static ChatTurn Said(ChatMessage message, string text, IReadOnlyList<ToolCall> asked) =>
        new() { Role = message.Role.Value, Content = text, ToolCalls = asked, Name = message.AuthorName };

    private static string ResultText(FunctionResultContent result) =>
        result.Result switch
        {
            string text => text,
            JsonElement { ValueKind: JsonValueKind.String } text => text.GetString()!,
            null when result.Exception is { } fault => $"Error: {fault.Message}",
            null => "null",
            var value => JsonSerializer.Serialize(value, Compact),
        };
}
