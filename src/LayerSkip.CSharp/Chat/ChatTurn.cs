using System.Text;

namespace LayerSkip.CSharp;

/// <summary>
/// What somebody said. All of it counts as typed: none of it becomes a special token of the model, whatever it says.
/// </summary>
public sealed record ChatTurn
{
    /// <summary>"system", "user", "assistant", "tool", or what else the model's chat template knows.</summary>
    public required string Role { get; init; }

    /// <summary>The text.</summary>
    public string Content { get; init; } = "";

    /// <summary>Of an assistant's turn: the calls of tools that it asks for.</summary>
    public IReadOnlyList<ToolCall> ToolCalls { get; init; } = [];

    /// <summary>Of a tool's turn: the <see cref="ToolCall.Id"/> of the call that it answers; null where calls have none.</summary>
    public string? ToolCallId { get; init; }

    /// <summary>The name of who speaks: of a tool's turn the tool's.</summary>
    public string? Name { get; init; }

    /// <summary>What the model is told before the conversation.</summary>
    public static ChatTurn System(string content) => Of("system", content);

    /// <summary>What the user says.</summary>
    public static ChatTurn User(string content) => Of("user", content);

    /// <summary>What the model said.</summary>
    public static ChatTurn Assistant(string content) => Of("assistant", content);

    /// <summary>What a tool answers to a call.</summary>
    public static ChatTurn Tool(ToolCall call, string content)
    {
        ArgumentNullException.ThrowIfNull(call);
        return Of("tool", content) with { ToolCallId = call.Id, Name = call.Name };
    }

    /// <summary>
    /// An answer as a turn: the calls of tools that the known families of models write into it (Hermes and Qwen, Llama 3.1, Mistral), and the text
    /// without them. To be asked only where tools were given.
    /// </summary>
    public static ChatTurn OfAnswer(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        var (content, calls) = LayerSkip.ToolCalls.read(text);
        return Assistant(content) with
        {
            ToolCalls = [.. calls.Select(call => new ToolCall { Id = call.Id?.Value, Name = call.Name, Arguments = call.Arguments })],
        };
    }

    private static ChatTurn Of(string role, string content)
    {
        ArgumentNullException.ThrowIfNull(content);
        return new() { Role = role, Content = content };
    }

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}

/// <summary>A call of a tool that the model asks for.</summary>
public sealed record ToolCall
{
    /// <summary>What the tool's turn names it by, where the model's family has that.</summary>
    public string? Id { get; init; }

    /// <summary>The tool.</summary>
    public required string Name { get; init; }

    /// <summary>A JSON object, as text.</summary>
    public string Arguments { get; init; } = "{}";
}

/// <summary>A tool that the model may ask for.</summary>
public sealed record ToolDefinition
{
    /// <summary>Its name.</summary>
    public required string Name { get; init; }

    /// <summary>What it does, for the model to read.</summary>
    public string? Description { get; init; }

    /// <summary>The JSON schema of its arguments, as text.</summary>
    public string Parameters { get; init; } = """{"type":"object","properties":{}}""";
}
