using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Expecto;
using Expecto.CSharp;
using static LayerSkip.CSharp.Tests.Support;

namespace LayerSkip.CSharp.Tests;

/// <summary>Models by name, from a hub on this machine.</summary>
internal static class HubTests
{
    private const string Commit = "0123456789abcdef0123456789abcdef01234567";

    public static Test All(Tiny tiny) => Runner.TestList("hub", [
        Case("a model is brought by its name, once, and loaded", async () =>
        {
            using Hub hub = new(tiny.Path);
            List<LoadProgress> told = [];
            await using (var model = await LayerSkipModel.LoadAsync("org/tiny", null, new Told<LoadProgress>(told.Add)))
            {
                Equal((model.Info.Name, model.Info.LayerCount, model.Info.HasTokenizer), ("org/tiny", 4, true), "what it is");
                using var here = LayerSkipModel.Load(tiny.Path);
                Same(model.Generate([1, 2]).TokenIds, here.Generate([1, 2]).TokenIds, "the same model");
            }

            var brought = told.Where(at => at.Stage == LoadStage.Downloading).ToList();
            True(brought.Count > 0, "it was told of");
            Equal((brought[^1].FilesDone, brought[^1].FilesTotal), (4, 4), "all files");
            Equal(brought[^1].BytesDone, brought[^1].BytesTotal!.Value, "all bytes");
            var files = hub.Files;
            using (LayerSkipModel.Load("org/tiny@main"))
            {
                Equal(hub.Files, files, "nothing is brought twice");
            }
        }),
        Case("a model that a hub has not is told of", async () =>
        {
            using Hub hub = new(tiny.Path);
            Equal(Throws<LayerSkipException>(() => LayerSkipModel.Load("org/none")).Code, LayerSkipErrorCode.NotOnHub, "why");
            await Cancelled(() => LayerSkipModel.LoadAsync("org/tiny", cancellationToken: new(canceled: true)));
        }),
    ]);

    /// <summary>A hub with one model, whose files are a folder's; this process asks it, until it is disposed.</summary>
    private sealed class Hub : IDisposable
    {
        private static readonly string[] Variables = ["HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"];
        private readonly DirectoryInfo home = Directory.CreateTempSubdirectory("layerskip-");
        private readonly Dictionary<string, string?> before = Variables.ToDictionary(name => name, Environment.GetEnvironmentVariable);
        private readonly HttpListener listener = new();
        private readonly string folder;
        private int files;

        public Hub(string folder)
        {
            this.folder = folder;
            using TcpListener free = new(IPAddress.Loopback, 0);
            free.Start();
            var address = $"http://127.0.0.1:{((IPEndPoint)free.LocalEndpoint).Port}/";
            free.Stop();
            listener.Prefixes.Add(address);
            listener.Start();
            foreach (var name in Variables)
            {
                Environment.SetEnvironmentVariable(name, name switch
                {
                    "HF_ENDPOINT" => address.TrimEnd('/'),
                    "HF_HOME" => home.FullName,
                    _ => null,
                });
            }

            new Thread(Serve) { IsBackground = true }.Start();
        }

        /// <summary>Files that were sent.</summary>
        public int Files => files;

        public void Dispose()
        {
            listener.Close();
            foreach (var (name, value) in before)
            {
                Environment.SetEnvironmentVariable(name, value);
            }

            home.Delete(recursive: true);
        }

        private void Serve()
        {
            while (true)
            {
                HttpListenerContext context;
                try
                {
                    context = listener.GetContext();
                }
                catch (Exception e) when (e is HttpListenerException or ObjectDisposedException)
                {
                    return;
                }

                Answer(context);
            }
        }

        private void Answer(HttpListenerContext context)
        {
            var path = context.Request.Url!.AbsolutePath;
            var file = path.Split($"/org/tiny/resolve/{Commit}/") is ["", var name] ? Path.Combine(folder, name) : null;
            var body =
                path.StartsWith("/api/models/org/tiny", StringComparison.Ordinal) ? Listing()
                : file is not null && File.Exists(file) ? File.ReadAllBytes(file)
                : null;
            var response = context.Response;
            response.StatusCode = body is null ? 404 : 200;
            response.Headers["X-Repo-Commit"] = Commit;
            if (body is not null)
            {
                response.Headers["ETag"] = $"\"{Convert.ToHexStringLower(SHA256.HashData(body))}\"";
                response.ContentLength64 = body.Length;
                if (context.Request.HttpMethod != "HEAD")
                {
                    files += file is null ? 0 : 1;
                    response.OutputStream.Write(body);
                }
            }

            response.Close();
        }

        private byte[] Listing() =>
            Encoding.UTF8.GetBytes(JsonSerializer.Serialize(new
            {
                sha = Commit,
                siblings = Directory.GetFiles(folder).Select(path => new { rfilename = Path.GetFileName(path) }),
            }));
    }
}
