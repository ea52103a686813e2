namespace LayerSkip.CSharp;

public sealed partial class LayerSkipModel
{
    /// <summary>The tokens of a conversation, by the model's own chat template. Nothing that was said becomes a special token.</summary>
    /// <param name="turns">What was said, the first turn first.</param>
    /// <param name="options">Tools and variables of the template, and how the prompt ends.</param>
    /// <exception cref="LayerSkipException">The model has no tokenizer or chat template, or the template refuses the turns.</exception>
    public int[] EncodeChat(IReadOnlyList<ChatTurn> turns, ChatPromptOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(turns);
        return LayerSkip.Chat.prompt(TranslateChat.Request(turns, options ?? new()), checkpoint).OrThrow();
    }
}
