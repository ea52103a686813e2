namespace LayerSkip.CSharp;

/// <summary>
/// A model that reads and writes texts: what a program needs of <see cref="LayerSkipModel"/>, for tests to stand in for it.
/// Later versions add members with an implementation.
/// </summary>
public interface ILayerSkipModel : IDisposable, IAsyncDisposable
{
    /// <summary>What the model is.</summary>
    ModelInfo Info { get; }

    /// <inheritdoc cref="LayerSkipModel.Encode"/>
    int[] Encode(string text, bool parseSpecial = true);

    /// <inheritdoc cref="LayerSkipModel.Decode"/>
    string Decode(IEnumerable<int> ids, bool showSpecial = false);

    /// <inheritdoc cref="LayerSkipModel.EncodeChat"/>
    int[] EncodeChat(IReadOnlyList<ChatTurn> turns, ChatPromptOptions? options = null);

    /// <inheritdoc cref="LayerSkipModel.Generate(string, GenerateOptions?, CancellationToken)"/>
    GenerateResult Generate(string prompt, GenerateOptions? options = null, CancellationToken cancellationToken = default);

    /// <inheritdoc cref="LayerSkipModel.Generate(IReadOnlyList{int}, GenerateOptions?, CancellationToken)"/>
    GenerateResult Generate(
        IReadOnlyList<int> promptIds, GenerateOptions? options = null, CancellationToken cancellationToken = default);

    /// <inheritdoc cref="LayerSkipModel.GenerateAsync(string, GenerateOptions?, CancellationToken)"/>
    Task<GenerateResult> GenerateAsync(
        string prompt, GenerateOptions? options = null, CancellationToken cancellationToken = default);

    /// <inheritdoc cref="LayerSkipModel.GenerateAsync(IReadOnlyList{int}, GenerateOptions?, CancellationToken)"/>
    Task<GenerateResult> GenerateAsync(
        IReadOnlyList<int> promptIds, GenerateOptions? options = null, CancellationToken cancellationToken = default);

    /// <inheritdoc cref="LayerSkipModel.StreamAsync(string, GenerateOptions?, CancellationToken)"/>
    IAsyncEnumerable<GeneratedToken> StreamAsync(
        string prompt, GenerateOptions? options = null, CancellationToken cancellationToken = default);

    /// <inheritdoc cref="LayerSkipModel.StreamAsync(IReadOnlyList{int}, GenerateOptions?, CancellationToken)"/>
    IAsyncEnumerable<GeneratedToken> StreamAsync(
        IReadOnlyList<int> promptIds, GenerateOptions? options = null, CancellationToken cancellationToken = default);

    /// <inheritdoc cref="LayerSkipModel.Lens(string, LensOptions?, CancellationToken)"/>
    LensResult Lens(string prompt, LensOptions? options = null, CancellationToken cancellationToken = default);

    /// <inheritdoc cref="LayerSkipModel.Lens(IReadOnlyList{int}, LensOptions?, CancellationToken)"/>
    LensResult Lens(IReadOnlyList<int> promptIds, LensOptions? options = null, CancellationToken cancellationToken = default);
}
