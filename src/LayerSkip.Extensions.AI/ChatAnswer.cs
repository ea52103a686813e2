using LayerSkip.CSharp;
using Microsoft.Extensions.AI;

namespace LayerSkip.Extensions.AI;

/// <summary>An answer as it comes: text to be shown at once, and at the end what was held back, as text or as calls.</summary>
internal abstract class ChatAnswer
{
    /// <summary>What may be shown now that this has come too.</summary>
    public abstract string Add(string text);

    /// <summary>What has not been shown, once all has come.</summary>
    public abstract IReadOnlyList<AIContent> End();

    /// <summary>The answer to a request without tools.</summary>
    public static ChatAnswer Plain { get; } = new PlainAnswer();

    private sealed class PlainAnswer : ChatAnswer
    {
        public override string Add(string text) => text;

        public override IReadOnlyList<AIContent> End() => [];
    }
}

/// <summary>An answer that may call tools as the model's family writes calls.</summary>
internal sealed class AnswerWithTools(ToolSet tools) : ChatAnswer
{
    private readonly ToolCallStream stream = new();

    public override string Add(string text) => stream.Push(text);

    public override IReadOnlyList<AIContent> End()
    {
        var held = stream.Held;
        var turn = ChatTurn.OfAnswer(held);
        var calls = tools.Contents(turn.ToolCalls);
        var rest = calls.Count > 0 ? turn.Content : held;

        // The space before a call is its.
        var isSaid = calls.Count > 0 ? !string.IsNullOrWhiteSpace(rest) : rest.Length > 0;
        return isSaid ? [new TextContent(rest), .. calls] : calls;
    }
}

/// <summary>An answer in JSON that is a call, or may be one: {"name": ..., "arguments": {...}}.</summary>
internal sealed class AnswerInJson(ToolSet tools) : ChatAnswer
{
    private readonly System.Text.StringBuilder all = new();

    public override string Add(string text)
    {
        all.Append(text);
        return "";
    }

    public override IReadOnlyList<AIContent> End()
    {
        var text = all.ToString();
        return tools.TryReadCall(text) is { } call ? [call] : text.Length > 0 ? [new TextContent(text)] : [];
    }
}
