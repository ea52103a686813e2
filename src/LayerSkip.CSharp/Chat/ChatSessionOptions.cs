namespace LayerSkip.CSharp;

/// <summary>What a chat does when the context has no room for all that was said and for an answer.</summary>
public enum FullContext
{
    /// <summary>
    /// The model is told the oldest questions no more, nor what came of them, as far as makes room for an answer of
    /// <see cref="GenerateOptions.MaxNewTokens"/> or of a quarter of the context. They stay in the history.
    /// </summary>
    DropOldest,

    /// <summary>The turn is refused (<see cref="LayerSkipErrorCode.ContextFull"/>) once no token more has room.</summary>
    Throw,
}

/// <summary>How a chat goes.</summary>
public sealed record ChatSessionOptions
{
    /// <summary>What the model is told before the conversation; null: nothing.</summary>
    public string? SystemMessage { get; init; }

    /// <summary>
    /// How answers are written. Where it names no stop tokens, they end at those of the model and at the one that its chat template writes
    /// behind an answer.
    /// </summary>
    public GenerateOptions Generate { get; init; } = new() { MaxNewTokens = 1024 };

    /// <summary>What becomes of a turn for which the context has no room.</summary>
    public FullContext WhenFull { get; init; }

    /// <summary>What the chat template is given: tools, variables; its date, where that names none, is the one of the session's beginning.</summary>
    public ChatPromptOptions Prompt { get; init; } = new();
}

/// <summary>An answer.</summary>
public sealed record ChatReply
{
    /// <summary>The assistant's turn, with the tools that it calls.</summary>
    public required ChatTurn Turn { get; init; }

    /// <summary>The text that was written, with its tokens, statistics and times.</summary>
    public required GenerateResult Result { get; init; }

    /// <summary>How many of the oldest turns after the system message the model was not told: see <see cref="FullContext.DropOldest"/>.</summary>
    public int DroppedTurnCount { get; init; }
}
