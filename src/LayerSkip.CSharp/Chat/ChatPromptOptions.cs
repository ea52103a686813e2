using System.Text;
using System.Text.Json;

namespace LayerSkip.CSharp;

/// <summary>What a chat template is given beside the turns.</summary>
public sealed record ChatPromptOptions
{
    /// <summary>Tools that the model may ask for.</summary>
    public IReadOnlyList<ToolDefinition> Tools { get; init; } = [];

    /// <summary>Whether the prompt ends with what begins the assistant's turn.</summary>
    public bool BeginsAnswer { get; init; } = true;

    /// <summary>Whether the prompt ends within the last turn, which the model goes on with.</summary>
    public bool ContinuesLast { get; init; }

    /// <summary>What the template takes for today; null: now.</summary>
    public DateTimeOffset? Now { get; init; }

    /// <summary>More variables of the template, as "enable_thinking".</summary>
    public IReadOnlyDictionary<string, JsonElement> Variables { get; init; } = new Dictionary<string, JsonElement>();

    private bool PrintMembers(StringBuilder text) => Printed.Members(text, this);
}
